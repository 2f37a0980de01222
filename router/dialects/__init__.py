"""Conversations in other protocols than chat completions, put as those, and the answers put back.

Pure: a package for each protocol, and a state machine for each of its streams.
"""
