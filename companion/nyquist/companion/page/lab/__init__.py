"""The shift lab: a picture slides, models answer, and every flip is seen.

wish, picture files -> moved pictures -> served answers, a batch at a time -> measures -> a browser
"""
