"""The database: tables, one repository per aggregate, and the door for Optuna."""
