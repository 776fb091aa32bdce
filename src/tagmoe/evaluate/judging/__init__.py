"""Models that are asked whether an edit is right: what they are asked, how they prove themselves, what they say."""
