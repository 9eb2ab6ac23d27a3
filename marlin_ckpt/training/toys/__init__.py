"""Small modules that train in seconds, for a first run, for the tests and for prove-resume.

toy     Toy: what they have in common
spiral  classifies points on spiral arms
text    predicts the next character of a text
"""
