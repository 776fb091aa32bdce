"""From the scores of runs to tables, intervals, differences and the page."""
