"""From topics to reports: Markdown, one page of HTML, W&B Reports."""
