//! Who is let in, and under which grant.
