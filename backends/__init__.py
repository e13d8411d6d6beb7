"""The reference: selection policies, selector, backend implementations."""
