"""What trains: lease trials, train them, report."""
