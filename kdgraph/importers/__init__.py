"""Other tools' configurations, read without running them, to specs."""
