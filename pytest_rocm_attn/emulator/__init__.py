"""AMD machine code, executed on a CPU: what Triton and clang compile for a target runs in numpy.

The assembly is the compiler's own (``compiled.asm["amdgcn"]``, ``clang -S``), so that a fault names
the line of the kernel's source. docs/emulator.md says what this rests on and where hardware
differs. Needs numpy; nothing here is imported before a launch is emulated.
"""
