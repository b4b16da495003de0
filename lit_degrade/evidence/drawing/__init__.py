"""What figures and tables of all topics are made with."""
