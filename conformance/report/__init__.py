"""What a run leaves behind: terminal matrix and report files."""
