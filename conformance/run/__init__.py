"""One run of the matrix within pytest: what it was asked to do, its session, and its reports."""
