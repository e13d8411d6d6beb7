"""One start of a server of vLLM, or of a fork, without weights and without a device."""
