"""`python -m benchmarks`: the speed suite."""

from benchmarks.speed.suite import main

if __name__ == "__main__":
    main()
