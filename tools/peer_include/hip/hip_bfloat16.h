// HIP's older bfloat16: included by vLLM, no name of it used.
#pragma once
