"""Exchange rates: which dose of each method costs the same."""

from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.topics.exchange_rates.figures import rate_plates
from lit_degrade.evidence.topics.exchange_rates.rows import read_rates
from lit_degrade.evidence.topics.exchange_rates.tables import write_rate_tables

TOPIC = Topic("exchange_rates", read_rates, write_rate_tables, rate_plates)
