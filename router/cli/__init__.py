"""The command line: `signalbox serve`, and commands that talk to the router that is running."""
