"""The objective of each stage: its networks and its losses, assembled into a `Stage`."""
