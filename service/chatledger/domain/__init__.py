"""Commands, events, and the rules between them: pure, without files, clocks of their own, or HTTP."""
