"""The grid as it is asked and judged: its axes, its design, and the rules that a contract fixes."""
