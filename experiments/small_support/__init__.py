"""Paper A, Fig. 6 right: scanners whose ages barely overlap."""
