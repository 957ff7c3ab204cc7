"""What is paid with cards, by Stripe: checkouts, credits, refunds."""
