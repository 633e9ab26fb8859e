"""This project compared with the notebook that it started from (the baseline), and studies of what raises the scores.

`python -m benchmarks` measures the speed; benchmarks.studies has one program per question. What was tried, and what it
brought: docs/decisions.md.
"""
