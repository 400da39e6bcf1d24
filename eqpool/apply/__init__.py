"""A trained run at work on scans: its networks read back, volumes pooled, decoded and written."""
