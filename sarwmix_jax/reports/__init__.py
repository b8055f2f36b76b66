"""What many runs gave together: studies, their tables and figures."""
