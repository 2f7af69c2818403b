"""What the program does: a module for each command, and what they share."""
