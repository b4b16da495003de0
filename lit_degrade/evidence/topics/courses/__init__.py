"""Courses: what was measured while runs went on, and spectra before and after."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.courses.figures import course_plates

TOPIC = Topic("courses", plates=course_plates)
