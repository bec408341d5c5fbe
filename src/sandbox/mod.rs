//! The sandbox provider: OpenAI's admin and data API for keys, with switchable faults.
