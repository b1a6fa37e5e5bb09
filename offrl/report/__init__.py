"""What came of runs and what is in a dataset, as a page that can be sent to somebody."""
