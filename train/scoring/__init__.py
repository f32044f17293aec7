"""The score of an answer by each rule there is, and what the scores of many answers say."""
