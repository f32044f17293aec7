"""An endpoint with OpenAI's interface, which keeps what it computed about the last clips."""
