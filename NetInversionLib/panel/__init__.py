"""What the panels of the extension's modules have in common."""
