//! redis_tier
