"""One file a command: main() reads flags, run() does it."""
