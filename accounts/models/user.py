from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """A person. Platform staff have `is_staff`; what tenants may do comes from memberships."""
