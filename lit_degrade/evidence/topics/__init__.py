"""One folder for each subject matter of a report: what its runs say, its tables, its figures. None knows of another."""
