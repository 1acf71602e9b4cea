"""residuum."""
