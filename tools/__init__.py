"""Programs that check a whole project at length; users run them, the test suite only in small."""
