"""What each stage minimises: its networks and its losses, assembled into a `Stage`."""
