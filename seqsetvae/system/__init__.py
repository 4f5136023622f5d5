"""What every command needs of the machine: files, console, processes, memory, errors. Imports nothing above it."""
