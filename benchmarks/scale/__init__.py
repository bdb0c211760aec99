"""What a job and an archive cost at sizes that no machine here holds images for: parts made up, measured, and added up."""
