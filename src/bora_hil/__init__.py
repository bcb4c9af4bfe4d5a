"""Human in the loop: teleoperation, the arbiter, the episode keeper and reward labels."""
