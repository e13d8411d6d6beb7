"""What was promised: contracts, rules about the grid, deviations, and the verdicts on them."""
