"""What a run did with its units: in numbers, in words, as a picture, and on the page that asked."""
