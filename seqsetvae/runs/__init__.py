"""What the commands do, a file for each, which imports torch; its settings, help and rules are in cli/."""
