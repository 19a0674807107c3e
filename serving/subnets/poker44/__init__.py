"""Poker44 (SN126): how likely each short run of poker decisions was played by a bot."""
