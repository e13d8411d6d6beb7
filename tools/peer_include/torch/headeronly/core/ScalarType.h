// Later releases include this where the kernels want but 8-bit floats.
#pragma once
#include <torch/all.h>
