"""The answer of a run: report.json for tools, report.html and a console summary for people.

``store`` writes and reads report.json, ``html`` renders it, ``console`` prints it; ``words`` and ``tables``
hold what both say, so that the two never disagree. A report is a plain mapping, report.json's content.
"""
