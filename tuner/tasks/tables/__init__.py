"""Tables for the tabular task, apart from it since pandas and scikit-learn are slow to load."""
