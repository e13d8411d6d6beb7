// Host code alone guards the device.
#pragma once
