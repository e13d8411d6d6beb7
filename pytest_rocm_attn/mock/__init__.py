"""The mocked ROCm platform."""
