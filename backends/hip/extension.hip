// What is built on a user's machine (backends/hip/build.py).
#include "launch.h"
