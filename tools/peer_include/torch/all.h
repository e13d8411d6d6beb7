// Kernels need nothing of torch but its 8-bit floats; the standard headers it would bring along.
#pragma once
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e4m3fnuz.h>
#include <cassert>
#include <cfloat>
