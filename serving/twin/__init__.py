"""The validator twin: a validator of our own, which asks, checks and scores as the subnet's validators do."""

from serving.twin.book import book_file
from serving.twin.report import PromptRow, Report
from serving.twin.run import Options, Target, World, run_twin
from serving.twin.schedule import Ask, Round

__all__ = ["Ask", "Options", "PromptRow", "Report", "Round", "Target", "World", "book_file", "run_twin"]
